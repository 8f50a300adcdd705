package erp

// This file has the words that names are made of.

import "strings"

var (
	firstNames = strings.Fields(`Anna Lukas Marie Jonas Sofia Elias Clara Felix Laura Paul Emma David Lena Simon Julia Tobias Nora Martin Helene Georg
		Ines Matteo Chiara Luca Camille Hugo Manon Louis Elsa Nils Astrid Lars Ingrid Erik Karin Piet Sanne Joris Femke Olga Milan Petra Tomas
		Zofia Adam Hanna Jakub Alice Henry Grace Oliver Amelia George Ruth Samuel Miriam Daniel Esther Aisha Omar Leila Karim Mei Wei Yuki Kenji`)
	lastNames = strings.Fields(`Gruber Huber Bauer Wagner Pichler Steiner Moser Mayer Hofer Leitner Berger Fuchs Eder Fischer Schmid Winkler Weber Schwarz
		Maier Schneider Reiter Brunner Lang Baumgartner Auer Binder Lechner Wolf Rossi Bianchi Ferrari Romano Moreau Lefevre Girard Bonnet Lindqvist
		Nyberg Dahl Hansen Olsen Jansen Bakker Visser Novak Svoboda Horvat Kowalska Nowak Walker Turner Hughes Bennett Clarke Foster Haddad Rahman Tanaka Chen`)
	tradeWords = strings.Fields(`Alpine Baltic Danube Meridian Granite Harbour Cedar Copper Falcon Juniper Lakeside Magnet Northern Orchard Pioneer Quarry Ridge
		Sable Summit Tidal Union Valley Willow Amber Beacon Cobalt Delta Ember Fjord Glacier Heron Iron Kestrel Linden Mosaic Nordic Oak Pine`)
	trades = strings.Fields(`Bearings Castings Coatings Components Controls Electronics Fasteners Fittings Forwarding Gears Glass Hydraulics Insulation Logistics
		Machining Metals Motors Optics Packaging Paper Plastics Polymers Pumps Sensors Services Springs Steel Supplies Textiles Timber Tooling Transport Valves Wire`)
	legalForms   = strings.Fields(`GmbH AG Ltd Inc SARL BV AB SpA KG plc`)
	adjectives   = strings.Fields(`Angled Brushed Compact Coated Double Fine Flat Galvanised Heavy Insulated Light Long Narrow Polished Precision Reinforced Round Sealed Short Slotted Stainless Wide`)
	things       = strings.Fields(`Adapter Axle Ball-bearing Beam Belt Bolt Bracket Bushing Cable Clamp Coupling Crank Disc Flange Gasket Gearwheel Handle Hinge Hose Housing Lever Nozzle Panel Pipe Piston Plate Pulley Rail Ring Rivet Rod Roller Rotor Screw Shaft Sleeve Spacer Spindle Spring Valve Washer Wheel`)
	streets      = strings.Fields(`Station Mill Church Market Garden School Bridge Harbour Forest Castle Park River Linden Poplar Meadow Quarry Factory Chapel Tower Ring`)
	streetKinds  = strings.Fields(`Street Road Lane Way Square Avenue`)
	cities       = [][3]string{{"Vienna", "1010", "AUT"}, {"Graz", "8010", "AUT"}, {"Linz", "4020", "AUT"}, {"Munich", "80331", "DEU"}, {"Hamburg", "20095", "DEU"}, {"Leipzig", "04109", "DEU"}, {"Zurich", "8001", "CHE"}, {"Milan", "20121", "ITA"}, {"Lyon", "69001", "FRA"}, {"Rotterdam", "3011", "NLD"}, {"Malmo", "21119", "SWE"}, {"Brno", "60200", "CZE"}, {"Leeds", "LS1 4AP", "GBR"}, {"Columbus", "43004", "USA"}, {"Portland", "97201", "USA"}}
	accountNames = strings.Split(`Cash in hand,Bank current account,Trade receivables,Prepaid expenses,Raw materials,Finished goods,Machinery,Vehicles,Buildings,Accumulated depreciation,Trade payables,Accrued expenses,VAT payable,VAT receivable,Loans,Share capital,Retained earnings,Sales domestic,Sales export,Sales returns,Cost of goods sold,Freight in,Purchase price variance,Wages,Social security,Rent,Energy,Maintenance,Travel,Advertising,Legal and audit,Insurance,Interest paid,Interest received,Exchange gains,Exchange losses,Bad debts,Rounding`, ",")
	jobCaptions  = strings.Split(`Post vendor invoices,Match product receipts,Settle open transactions,Send customer statements,Print picking lists,Recalculate inventory,Close inventory,Run master planning,Import bank statements,Export payments,Import exchange rates,Synchronize stores,Clean up notifications,Refresh aggregate measures,Process workflow messages,Send e-mail,Update due dates,Release orders to warehouse,Export vendor changes,Archive journals`, ",")
)

// world is what the rows of all tables agree on: how many there are of what, and how they are called.
type world struct {
	Options
	vendors, customers, workers, items int
	orders, purchases, journals        int
}

func newWorld(o Options) *world {
	w := &world{Options: o, workers: 400}
	w.vendors, w.customers, w.items = w.some(3000), w.some(6000), w.some(2000)
	w.orders, w.purchases, w.journals = w.some(6000), w.some(3000), w.some(600)
	return w
}

// some is a number that grows with the scale: of a multiple of the companies' pattern, so that each has its share.
func (w *world) some(n int) int {
	return max(pattern, int(float64(n)*w.Scale)/pattern*pattern)
}
